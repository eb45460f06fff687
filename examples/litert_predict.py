"""An exported model without mnv2_tasks: python litert_predict.py model.tflite picture.jpg

Needs ai-edge-litert, numpy and pillow. model.json tells what the model is; it lies in a ZIP archive at the file's end.
"""

import json
import sys
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

with zipfile.ZipFile(sys.argv[1]) as archive:
    about = json.loads(archive.read("model.json"))
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
interpreter = Interpreter(model_path=sys.argv[1])
runner = interpreter.get_signature_runner()
(given,) = runner.get_input_details()
raw = runner(**{given: np.ascontiguousarray(image)})
found = dict(zip(about["outputs"], (raw[f"output_{i}"] for i in range(len(raw))), strict=True))

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
