"""Operations that decide speed and memory: one file per op, with its formula, its source and its plain reference."""
