# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the pages take for granted: a reader's records, checkpoints and downloads, made small."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.records import DetectionRecord, write_records
from coordexp_trl.tiny import create_tiny_checkpoint

SIZE = 64
TEXT_LAYERS = r".*language_model.*\.(q_proj|v_proj)"

Input = Callable[[Path], None]


def pictures(folder: Path, names: Sequence[str]) -> list[DetectionRecord]:
    """Draws a picture for each name below `folder` and returns their records."""
    records = []
    for index, name in enumerate(names):
        picture, objects = draw_shapes(7, index, SIZE, max_objects=2)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
        records.append(DetectionRecord((name,), SIZE, SIZE, tuple(objects)))
    return records


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def records(*files: str, count: int = 3) -> Input:
    """Files of records with their images."""

    def make(folder: Path) -> None:
        for file in files:
            names = [f"images/{Path(file).stem}_{number}.png" for number in range(count)]
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_records(pictures((folder / file).parent, names), folder / file)

    return make


def checkpoint(*names: str, num_bins: int = 1000) -> Input:
    """Checkpoints with coordinate tokens, or without (`num_bins=0`)."""

    def make(folder: Path) -> None:
        for name in names:
            create_tiny_checkpoint(
                folder / name, num_bins=num_bins, hidden_size=64, num_layers=2, vision_depth=2, structure_tokens=True
            )

    return make


def adapter(name: str, base: str = "qwen3-vl-4b-coord") -> Input:
    """An adapter of a checkpoint that is there, as a run of Stage-2 leaves it."""

    def make(folder: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = AutoModelForImageTextToText.from_pretrained(folder / base)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=TEXT_LAYERS, init_lora_weights=False))
        model.save_pretrained(folder / name)
        AutoProcessor.from_pretrained(folder / base).save_pretrained(folder / name)
        file = folder / name / "adapter_config.json"
        config = json.loads(file.read_text("utf-8"))
        write_json(file, config | {"base_model_name_or_path": base})

    return make


def photos(*names: str) -> Input:
    """Images without records."""
    return lambda folder: pictures(folder, names) and None


def voc(root: str, *splits: str) -> Input:
    """Pascal VOC below `root`."""

    def make(folder: Path) -> None:
        place = folder / root
        for split in splits:
            names = [f"{split}_{number}" for number in range(5)]
            for record in pictures(place / "JPEGImages", [f"{name}.jpg" for name in names]):
                objects = "".join(
                    f"<object><name>{item.desc}</name><bndbox>"
                    + "".join(
                        f"<{edge}>{value}</{edge}>"
                        for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), item.bbox_2d, strict=True)
                    )
                    + "</bndbox></object>"
                    for item in record.objects
                )
                size = f"<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size>"
                file = place / "Annotations" / Path(record.images[0]).with_suffix(".xml")
                file.parent.mkdir(exist_ok=True)
                file.write_text(f"<annotation>{size}{objects}</annotation>", encoding="utf-8")
            (place / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (place / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")

    return make


def coco(annotations: str, images: str, lvis: bool = False, split: str = "val") -> Input:
    """COCO instances, or LVIS with the polygons and addresses that it adds."""

    def make(folder: Path) -> None:
        start = 1000 if split == "val" else 0
        found = pictures(folder / images, [f"{start + number:012}.jpg" for number in range(1, 4)])
        names = sorted({item.desc for record in found for item in record.objects})
        content = {"images": [], "annotations": [], "categories": []}
        for number, name in enumerate(names, 1):
            extra = {"synset": f"shape.n.{number:02}", "frequency": "f"} if lvis else {}
            content["categories"].append({"id": number, "name": name, **extra})
        for number, record in enumerate(found, start + 1):
            image = {"id": number, "width": SIZE, "height": SIZE}
            if lvis:
                address = f"http://images.cocodataset.org/{split}2017/{record.images[0]}"
                image |= {"coco_url": address, "neg_category_ids": [], "not_exhaustive_category_ids": []}
            else:
                image["file_name"] = record.images[0]
            content["images"].append(image)
            for item in record.objects:
                x1, y1, x2, y2 = item.bbox_2d
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": names.index(item.desc) + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    }
                )
        write_json(folder / annotations, content)

    return make


def visual_genome(folder: Path) -> None:
    """`image_data.json`, `objects.json`, `region_descriptions.json` and the images."""
    image_data, objects, regions = [], [], []
    for number, record in enumerate(pictures(folder, ["VG_100K/1.jpg", "VG_100K_2/2.jpg"]), 1):
        address = f"https://cs.stanford.edu/people/rak248/{record.images[0]}"
        image_data.append({"image_id": number, "url": address, "width": SIZE, "height": SIZE})
        boxes = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (item.bbox_2d for item in record.objects)]
        pairs = list(zip(record.objects, boxes, strict=True))
        items = [dict(zip("xywh", box, strict=True)) | {"names": [item.desc], "synsets": []} for item, box in pairs]
        objects.append({"image_id": number, "objects": [{"object_id": k, **item} for k, item in enumerate(items)]})
        items = [
            dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"phrase": item.desc} for item, box in pairs
        ]
        regions.append({"id": number, "regions": [{"region_id": k, **item} for k, item in enumerate(items)]})
    contents = {"image_data": image_data, "objects": objects, "region_descriptions": regions}
    for name, content in contents.items():
        write_json(folder / f"{name}.json", content)


def yolo(folder: Path) -> None:
    """`data.yaml` or `names.txt`, images and labels."""
    found = pictures(folder, ["images/val2017/1.jpg", "images/val2017/2.jpg"])
    names = sorted({item.desc for record in found for item in record.objects})
    for record in found:
        lines = []
        for item in record.objects:
            x1, y1, x2, y2 = (edge / SIZE for edge in item.bbox_2d)
            lines.append(f"{names.index(item.desc)} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n")
        file = folder / record.images[0].replace("images/", "labels/").replace(".jpg", ".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines))
    (folder / "names.txt").write_text("\n".join(names))
    # YAML is a superset of JSON
    write_json(folder / "data.yaml", {"val": "images/val2017", "names": names})


def odvg(folder: Path) -> None:
    """`odvg.jsonl`, `odvg_label_map.json` and the images."""
    found = pictures(folder, ["images/1.jpg", "images/2.jpg"])
    names = sorted({item.desc for record in found for item in record.objects})
    lines = []
    for record in found:
        instances = [
            {"bbox": list(item.bbox_2d), "label": names.index(item.desc), "category": item.desc}
            for item in record.objects
        ]
        line = {"filename": record.images[0], "height": SIZE, "width": SIZE, "detection": {"instances": instances}}
        lines.append(json.dumps(line) + "\n")
    (folder / "odvg.jsonl").write_text("".join(lines))
    write_json(folder / "odvg_label_map.json", dict(enumerate(names)))


def ms_swift(folder: Path) -> None:
    """A grounding dataset of ms-swift, `swift.jsonl`."""
    lines = []
    for record in pictures(folder, ["images/1.jpg", "images/2.jpg"]):
        answer = "\n".join("<ref-object><bbox>" for _ in record.objects)
        messages = [{"role": "user", "content": "<image>Find all."}, {"role": "assistant", "content": answer}]
        objects = {
            "ref": [item.desc for item in record.objects],
            "bbox": [list(item.bbox_2d) for item in record.objects],
        }
        lines.append(json.dumps({"images": list(record.images), "messages": messages, "objects": objects}) + "\n")
    (folder / "swift.jsonl").write_text("".join(lines))
