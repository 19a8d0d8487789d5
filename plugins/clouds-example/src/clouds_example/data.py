from clouds import FilePattern, Layout

SPLIT_FIRST = Layout(
    variants=(
        (
            FilePattern(folder="<split>/images", endings=(".jpg",)),
            FilePattern(folder="<split>/labels", endings=(".png",)),
        ),
    ),
    splits={"train": "train", "val": "val"},
    encoding="trainIds",  # a label file holds train ids, and 255 where nothing is labelled
    source="your own",
    download="made by yourself",
)
