"""Whether a model was trained with dropout, which teaches it to do without any one part."""

from typing import Any

from residscope.engine.model import Model


def dropout_of(model: Model) -> dict[str, float]:
    """The rates of dropout that its configuration tells of, above 0, by name: what was ablated may be repaired elsewhere."""
    config: Any = model.hf.config
    told = config.to_dict() if hasattr(config, "to_dict") else {}
    return {
        name: float(rate)
        for name, rate in sorted(told.items())
        if ("dropout" in name or name.endswith("pdrop"))
        and "classifier" not in name
        and isinstance(rate, float | int)
        and not isinstance(rate, bool)
        and rate > 0
    }


def warning_of(rates: dict[str, float]) -> str:
    """A sentence for beneath a picture; none where there was no dropout."""
    if not rates:
        return ""
    said = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    return f"Trained with dropout ({said}): what is taken out may be made up for elsewhere."
