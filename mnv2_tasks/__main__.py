"""The command `mnv2`: a verb, then what `python -m mnv2_tasks.<verb>` takes."""

import runpy
import sys

VERBS = {
    "train": "train heads on one trunk: task=ssdlite data=coco data.root=<folder>",
    "evaluate": "the metrics of a checkpoint, or of an exported file: ckpt=<file> split=test",
    "calibrate": "a temperature, and thresholds of classes, fitted on val: ckpt=<best.ckpt> [precision=0.9]",
    "predict": "pictures, folders, films or a camera: model=<file> source=<...>",
    "export": "files for phones, servers and browsers: ckpt=<file> to=[onnx,litert] precision=[fp32,int8]",
    "benchmark": "size and milliseconds of exported files on this machine: model=<folder>",
    "doctor": "what is in a data set, what is wrong with it, and which settings suit it: data=coco data.root=<folder>",
    "shards": "a data set as files to stream: data=coco data.root=<folder> out=<folder or s3://...>",
    "study": "runs that vary one setting over seeds, compared: blocks task=classifier data=cifar10",
    "search": "settings drawn from a space, for the best of them: ssdlite task=ssdlite data=coco data.root=<folder>",
    "compare": "finished runs in one table, with plots and a page: <folders> baseline=<folder>",
    "analysis": "figures of the paper, and what each layer costs: what=[figure1,layers]",
    "ledger": "the paper's tables beside this code's numbers",
    "budget": "the networks that fit limits: madds=100M params=2M",
    "cost": "parameters and multiply-adds that the paper tells, counted",
}


def main() -> None:
    verb, *settings = sys.argv[1:] or ["--help"]
    if verb in ("--help", "-h", "help"):
        print(usage())
    elif verb == "--version":
        from mnv2_tasks.version import __version__

        print(__version__)
    elif verb not in VERBS:
        from mnv2_tasks.errors import fail

        fail(f"{verb}: no such command, of {', '.join(VERBS)}")
    else:
        sys.argv = [f"mnv2 {verb}", *settings]
        runpy.run_module(f"mnv2_tasks.{verb}", run_name="__main__", alter_sys=True)


def usage() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        (
            "mnv2 <command> [setting=value ...]",
            "One MobileNetV2 trunk, many heads: classification, detection and segmentation.",
            "",
            *(f"  {verb:{width}}  {what}" for verb, what in VERBS.items()),
            "",
            "mnv2 <command> --help tells its settings; results go to runs/ in this folder.",
        )
    )


if __name__ == "__main__":
    main()
