"""What the throughput benchmark found, as JSON and as a table."""

import json
from pathlib import Path
from typing import Any


def written(result: dict[str, Any], folder: Path) -> None:
    """Write throughput.json and throughput.md; what the other device gave before stays."""
    file = folder / "throughput.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    device = "cuda" if "accelerator" in result else "cpu"
    both = {**before, device: result}
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(both, indent=1) + "\n")
    parts = [_text(name, both[name]) for name in sorted(both)]
    (folder / "throughput.md").write_text("# Throughput\n\n" + "\n".join(parts), encoding="ascii")


def _text(device: str, result: dict[str, Any]) -> str:
    lines = [
        f"## {device}: {result['machine']}",
        "",
        f"`{result['command']}`: {result['size']}, {result['steps']} steps. Target: {result['target']}.",
        "",
        "| stage | tokens/s | plain TRL | ratio | 95 % | pairs |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["ratios"].items():
        low, high = row.get("interval", ("", ""))
        told = f"{low} to {high}" if low else "one pair"
        lines.append(
            f"| {name} | {row['ours']:.0f} | {row['plain']:.0f} | {row['ratio']:.3f} | {told} | "
            f"{len(row['pairs'])} |"
        )
    if found := result.get("accelerator"):
        lines += ["", "| model | tokens/s | share of peak | peak memory |", "|---|---|---|---|"]
        for size, row in found["models"].items():
            share = f"{row['share']:.1%}" if row["share"] else "unknown"
            lines.append(
                f"| {size} ({row['parameters'] / 1e9:.2f} B) | {row['tokens_per_second']:.0f} | {share} | "
                f"{row['peak'] / 2**30:.1f} GiB |"
            )
        lines += ["", "| hook | step | memory |", "|---|---|---|"]
        lines += [
            f"| {case} | x {row['step']:.3f} | x {row['memory']:.3f} |"
            for case, row in found["hooks"].items()
        ]
    return "\n".join(lines) + "\n"
