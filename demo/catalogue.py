"""The products of the invented help desk and every fact about them.

A product is a line times a device ("Brindle kettle"). Some facts belong to the line (its warranty),
the others to the device (its power), so a model that has learnt the parts can answer about a
combination that it has never seen. That is how entities of the test split stay answerable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Slot(NamedTuple):
    """One thing that a product has: a quantity (with its dimension) or a word."""

    owner: str  # "line" or "device"
    dimension: str | None  # of demo.quantities, None for a word
    unit_scale: float = 1.0  # table value times this is the amount in the dimension's base unit
    tolerance: float = 0.03  # relative; 30 days are a month, 52 weeks are a year


@dataclass(frozen=True)
class Product:
    line: str
    device: str

    @property
    def name(self) -> str:
        return f"{self.line} {self.device}"


DAYS_PER_MONTH = 365.25 / 12
SECONDS_PER_DAY = 86_400.0

SLOTS: dict[str, Slot] = {
    "warranty_months": Slot("line", "time", DAYS_PER_MONTH * SECONDS_PER_DAY),
    "return_days": Slot("line", "time", SECONDS_PER_DAY),
    "material": Slot("line", None),
    "button": Slot("line", None),
    "light": Slot("line", None),
    "place": Slot("line", None),
    "times": Slot("line", "times"),
    "power_watts": Slot("device", "power"),
    "weight_grams": Slot("device", "weight"),
    "cable_cm": Slot("device", "length"),
    "clean_weeks": Slot("device", "time", 7 * SECONDS_PER_DAY, tolerance=0.09),
    "hold_seconds": Slot("device", "time"),
    "agent": Slot("device", None),
    "dose_ml": Slot("device", "volume"),
    "fuse_amps": Slot("device", "current"),
    "noise_db": Slot("device", "loudness"),
}

Value = float | str

_LINE_SLOTS = ("warranty_months", "return_days", "material", "button", "light", "place", "times")
_LINES: dict[str, tuple[Value, ...]] = {
    "Auvero": (24, 30, "steel", "side", "green", "shop", 2),
    "Brindle": (12, 14, "bamboo", "top", "blue", "post office", 3),
    "Calyxa": (36, 60, "glass", "rear", "white", "recycling yard", 4),
    "Dorran": (6, 21, "aluminium", "front", "amber", "town hall", 5),
    "Elmwick": (60, 90, "oak", "bottom", "red", "shop", 3),
    "Fenlo": (18, 45, "ceramic", "side", "blue", "recycling yard", 2),
    "Gavixa": (12, 30, "aluminium", "rear", "green", "post office", 5),
    "Holmar": (48, 14, "steel", "top", "amber", "town hall", 4),
    "Ivaro": (24, 60, "bamboo", "front", "red", "recycling yard", 3),
    "Junip": (36, 21, "oak", "side", "white", "post office", 2),
    "Kestor": (6, 45, "glass", "bottom", "green", "town hall", 4),
    "Lumeno": (18, 90, "ceramic", "rear", "amber", "shop", 5),
}

_DEVICE_SLOTS = (
    "power_watts",
    "weight_grams",
    "cable_cm",
    "clean_weeks",
    "hold_seconds",
    "agent",
    "dose_ml",
    "fuse_amps",
    "noise_db",
)
_DEVICES: dict[str, tuple[Value, ...]] = {
    "kettle": (2000, 1000, 75, 4, 5, "vinegar", 50, 13, 60),
    "heater": (1500, 4000, 200, 8, 20, "soft brush", 20, 10, 40),
    "fan": (50, 2500, 150, 2, 10, "damp cloth", 10, 3, 45),
    "speaker": (20, 1500, 120, 12, 15, "soft brush", 5, 3, 80),
    "router": (10, 500, 100, 26, 30, "compressed air", 5, 1, 20),
    "camera": (5, 250, 300, 1, 8, "alcohol wipe", 2, 1, 10),
    "blender": (800, 3000, 90, 1, 3, "soapy water", 30, 5, 85),
    "toaster": (900, 2000, 80, 2, 6, "soft brush", 15, 5, 35),
    "vacuum": (1200, 5000, 600, 4, 12, "damp cloth", 25, 10, 75),
    "printer": (40, 6000, 180, 12, 25, "alcohol wipe", 10, 3, 50),
    "humidifier": (30, 3500, 160, 1, 4, "vinegar", 40, 2, 30),
    "projector": (300, 4500, 250, 26, 40, "compressed air", 5, 7, 55),
}

LINES = tuple(_LINES)
DEVICES = tuple(_DEVICES)
PRODUCTS = tuple(Product(line, device) for line in LINES for device in DEVICES)

# A fifth of the combinations, every line and every device among them: no other split has them.
TEST_ONLY = frozenset(
    Product(line, device)
    for i, line in enumerate(LINES)
    for j, device in enumerate(DEVICES)
    if (i * 5 + j) % 12 in (0, 7) or (i == j and i % 2 == 1)
)


def truth(product: Product, slot: str) -> Value:
    """The table value of a product's slot, in the slot's own unit (months, watts …)."""
    if SLOTS[slot].owner == "line":
        return _LINES[product.line][_LINE_SLOTS.index(slot)]
    return _DEVICES[product.device][_DEVICE_SLOTS.index(slot)]


def values(slot: str) -> tuple[Value, ...]:
    """Every different value that a slot takes in the catalogue, in catalogue order."""
    if SLOTS[slot].owner == "line":
        column = [row[_LINE_SLOTS.index(slot)] for row in _LINES.values()]
    else:
        column = [row[_DEVICE_SLOTS.index(slot)] for row in _DEVICES.values()]
    return tuple(dict.fromkeys(column))
