"""An exported model without mnv2_tasks: python onnx_predict.py model.onnx picture.jpg

Needs onnxruntime, numpy and pillow. model.onnx tells by itself what it is; model.json beside it says the same.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["mnv2_tasks"])
picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
height, width = about["size"]
across, down = width / picture.width, height / picture.height
if about["fit"] == "pad":  # proportions kept, grey to the right or below
    across = down = min(across, down)
if about["fit"] == "crop":  # proportions kept, the middle of a somewhat larger picture
    across = down = max(across, down) * 8 / 7
w, h = max(1, round(picture.width * across)), max(1, round(picture.height * down))
shift = (round((width - w) / 2), round((height - h) / 2)) if about["fit"] == "crop" else (0, 0)
canvas = Image.new("RGB", (width, height), (127, 127, 127))
canvas.paste(picture.resize((w, h), Image.Resampling.BILINEAR), shift)
image = np.asarray(canvas.convert("L") if about["preprocessing"]["channels"] == "grey" else canvas)
image = image.reshape(1, height, width, -1)  # (1, H, W, C) uint8
if about["input"]["layout"] == "nchw":
    image = image.transpose(0, 3, 1, 2)
if about["input"]["dtype"] == "float32":
    image = image.astype(np.float32) / 255
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(None, {"images": np.ascontiguousarray(image)}), strict=True))

for task, kind in about["tasks"].items():
    classes = about["classes"][task]
    if kind == "detection":
        scale = np.array([picture.width / w, picture.height / h] * 2)
        rows = zip(*(found[f"{task}_{part}"][0] for part in ("boxes", "scores", "labels")), strict=True)
        for box, score, label in rows:
            if score >= 0.4:  # rows with score 0 are padding
                print(task, classes[label], f"{score:.3f}", *(f"{side:.1f}" for side in box * scale))
    elif kind == "segmentation":
        index, pixels = np.unique(found[f"{task}_mask"][0, :h, :w], return_counts=True)
        for label, count in zip(index, pixels, strict=True):
            print(task, classes[label], f"{count / pixels.sum():.3f}")
    else:
        scores = found[f"{task}_scores"][0]
        for label in scores.argsort()[::-1][:3]:
            print(task, classes[label], f"{scores[label]:.3f}")
