import csv


class LossTable:
    """Writes the loss of each step to `loss.csv` in the run's folder; a run that goes on appends."""

    def __init__(self, folder, recipe):  # `recipe`: all settings of the run, as plain values
        self.file = (folder / "loss.csv").open("a", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file)
        if not self.file.tell():
            self.rows.writerow(["phase", "step", "loss"])

    def log(self, phase, step, numbers):
        if "loss" in numbers:
            self.rows.writerow([phase, step, numbers["loss"]])

    def close(self):
        self.file.close()
