# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp eval`: predictions against ground truth."""

import argparse
import json

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    help_text = "compare predictions with ground truth: F1, AP, AR, per class and image"
    parser = add_command(commands, "eval", help_text, _run)
    parser.add_argument("--predictions", metavar="FILE", required=True, help="predictions.jsonl, or COCO results")
    parser.add_argument("--ground-truth", metavar="FILE", required=True, help="records, COCO instances or LVIS")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for metrics.json and tables")
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start")
    parser.add_argument("--iou-threshold", type=float, default=0.5, metavar="IOU", help="IoU of a true positive")
    parser.add_argument("--duplicate-iou", type=float, default=0.7, metavar="IOU", help="IoU of a duplicate")
    parser.add_argument("--score-threshold", type=float, metavar="S", help="leave out predictions with a lower score")
    most = "predictions of an image in AP (default: 100 a class; LVIS 300)"
    parser.add_argument("--max-detections", type=int, metavar="N", help=most)
    parser.add_argument("--class-agnostic", action="store_true", help="ignore the descriptions")
    parser.add_argument("--classes", metavar="A,B|FILE.txt", help="judge these only; @FILE or FILE.txt: one a line")
    parser.add_argument("--synonyms", metavar="FILE.yaml", help="descriptions that mean the same: name: [others]")
    parser.add_argument("--num-bins", type=int, default=1000, metavar="N", help="bins of coordinate tokens in records")
    parser.add_argument("--no-convention-check", action="store_true", help="do not ask whether boxes are in pixels")
    parser.add_argument("--json", action="store_true", help="print metrics.json")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.evaluation.evaluate import EvaluationSettings
    from coordexp_trl.evaluation.inputs.evaluation_set import read_evaluation_set
    from coordexp_trl.evaluation.result_files import evaluate_set, write_results
    from coordexp_trl.inference.class_prompts import read_classes

    found = read_evaluation_set(
        args.predictions,
        args.ground_truth,
        image_root=args.image_root,
        synonyms=args.synonyms,
        classes=None if args.classes is None else read_classes(args.classes),
        score_threshold=args.score_threshold,
        check_convention=not args.no_convention_check,
        num_bins=args.num_bins,
    )
    most = args.max_detections or (300 if found.is_federated else 100)
    settings = EvaluationSettings(args.iou_threshold, args.duplicate_iou, most, args.class_agnostic)
    result, content = evaluate_set(found, settings)
    write_results(args.out, found, result, content)
    if args.json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _print(content, result.classes)
        print(f"wrote metrics.json, per_class.csv and per_image.jsonl to {args.out}")


def _print(content: dict, classes: list[dict]) -> None:
    metrics, counts = content["metrics"], content["counts"]
    print(f"{counts['ground_truth']} objects and {counts['predictions']} predictions in {counts['images']} images")
    names = ("precision", "recall", "f1", "macro_f1", "mean_iou")
    labels = {"50": "IoU .50", "75": "IoU .75", "50_95": "IoU .50:.95"}
    rows = [[label, *(metrics[f"{name}_{key}"] for name in names)] for key, label in labels.items()]
    print_table(rows, headers=["", "precision", "recall", "F1", "macro F1", "mean IoU"])
    if metrics["ap"] is None:
        low, high = metrics["ap_constant_min"], metrics["ap_constant_max"]
        if low is not None:
            print(f"AP without different scores depends on the order: {low:.4f} to {high:.4f}")
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_rare": "AP rare", "ap_common": "AP common"}
    names |= {"ap_frequent": "AP frequent", "ar": "AR", "duplicate_rate": "duplicate rate", "ece": "calibration error"}
    print_table([(label, metrics[key]) for key, label in names.items() if metrics.get(key) is not None])
    if content["notes"]:
        print_table(content["notes"].items(), headers=["treated", ""])
    shown = [[row[name] for name in ("class", "gt", "tp", "fp", "fn", "f1", "ap")] for row in classes[:10]]
    print_table(shown, headers=["class", "objects", "TP", "FP", "missed", "F1", "AP"])
    if len(classes) > len(shown):
        print(f"and {len(classes) - len(shown)} more classes in per_class.csv")
