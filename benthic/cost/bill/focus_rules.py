"""The published rules of FOCUS 1.2 for the columns that are written here, and a check against them.

FOCUS is the FinOps Open Cost and Usage Specification (CC BY 4.0). COLUMNS has the 21 mandatory
columns and the others that `focus.py` writes; CROSS has the rules between columns. Each names the
section of the specification that it restates, below `specification/` of version 1.2. A cell is text
as it stands in a CSV file, and an empty one is null. Left out: what only a provider can know, such
as whether sums match an invoice, and the columns of commitments, capacity and other currencies.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

PREFIX = "benthic/"  # of all tags that are written here, which are the provider's
MOST = 100  # faults told; a file with more is wrong throughout

Kind = Literal["text", "decimal", "time", "currency", "object"]
Row = Mapping[str, str]

_DECIMAL = re.compile(r"-?(\d+(\.\d+)?|\.\d+)(E-?\d+)?", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_FORMS = {
    "text": ("text that is more than blanks", "attributes/string_handling.md"),
    "decimal": (
        "a number, 12 or -0.5 or 1.5E-7, without sign for positive ones, commas or units",
        "attributes/numeric_format.md",
    ),
    "time": ("a moment in UTC, 2025-03-17T14:30:00Z", "attributes/datetime_format.md"),
    "currency": ("a code of ISO 4217, like USD", "attributes/currency_format.md"),
    "object": (
        "a JSON object whose values are texts, numbers, true, false or null",
        "attributes/key_value_format.md",
    ),
}

SUBCATEGORIES = {  # of each service category, those that are written here
    "AI and Machine Learning": (
        *("AI Platforms", "Bots", "Generative AI", "Machine Learning"),
        *("Natural Language Processing", "Other (AI and Machine Learning)"),
    ),
    "Other": ("Other (Other)",),
}
SERVICES = (
    *("AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases"),
    *("Developer Tools", "Multicloud", "Identity", "Integration", "Internet of Things"),
    *("Management and Governance", "Media", "Migration", "Mobile", "Networking", "Security"),
    *("Storage", "Web", "Other"),
)


@dataclass(frozen=True)
class Column:
    """What one column may hold; `section` is below columns/."""

    name: str
    kind: Kind
    section: str
    mandatory: bool = True
    nulls: bool = False
    allowed: Sequence[str] = ()
    least: int | None = None


COLUMNS = (
    Column("BilledCost", "decimal", "billedcost.md"),
    Column("BillingAccountId", "text", "billingaccountid.md"),
    Column("BillingAccountName", "text", "billingaccountname.md"),
    Column("BillingCurrency", "currency", "billingcurrency.md"),
    Column("BillingPeriodEnd", "time", "billingperiodend.md"),
    Column("BillingPeriodStart", "time", "billingperiodstart.md"),
    Column(
        *("ChargeCategory", "text", "chargecategory.md"),
        allowed=("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    ),
    Column("ChargeClass", "text", "chargeclass.md", nulls=True, allowed=("Correction",)),
    Column("ChargeDescription", "text", "chargedescription.md", nulls=True),
    Column(
        *("ChargeFrequency", "text", "chargefrequency.md"),
        mandatory=False,
        allowed=("One-Time", "Recurring", "Usage-Based"),
    ),
    Column("ChargePeriodEnd", "time", "chargeperiodend.md"),
    Column("ChargePeriodStart", "time", "chargeperiodstart.md"),
    Column("ConsumedQuantity", "decimal", "consumedquantity.md", mandatory=False, nulls=True),
    Column("ConsumedUnit", "text", "consumedunit.md", mandatory=False, nulls=True),
    Column("ContractedCost", "decimal", "contractedcost.md"),
    Column("EffectiveCost", "decimal", "effectivecost.md"),
    Column("InvoiceIssuerName", "text", "invoiceissuer.md"),
    Column("ListCost", "decimal", "listcost.md"),
    Column("ListUnitPrice", "decimal", "listunitprice.md", mandatory=False, nulls=True, least=0),
    Column(
        *("PricingCategory", "text", "pricingcategory.md"),
        mandatory=False,
        nulls=True,
        allowed=("Standard", "Committed", "Dynamic", "Other"),
    ),
    Column("PricingQuantity", "decimal", "pricingquantity.md", nulls=True),
    Column("PricingUnit", "text", "pricingunit.md", nulls=True),
    Column("ProviderName", "text", "provider.md"),
    Column("PublisherName", "text", "publisher.md"),
    Column("RegionId", "text", "regionid.md", mandatory=False, nulls=True),
    Column("RegionName", "text", "regionname.md", mandatory=False, nulls=True),
    Column("ResourceId", "text", "resourceid.md", mandatory=False, nulls=True),
    Column("ResourceName", "text", "resourcename.md", mandatory=False, nulls=True),
    Column("ResourceType", "text", "resourcetype.md", mandatory=False, nulls=True),
    Column("ServiceCategory", "text", "servicecategory.md", allowed=SERVICES),
    Column("ServiceName", "text", "servicename.md"),
    Column("ServiceSubcategory", "text", "servicesubcategory.md", mandatory=False),
    Column("SkuId", "text", "skuid.md", mandatory=False, nulls=True),
    Column("SkuMeter", "text", "skumeter.md", mandatory=False, nulls=True),
    Column("SkuPriceId", "text", "skupriceid.md", mandatory=False, nulls=True),
    Column("SubAccountId", "text", "subaccountid.md", mandatory=False, nulls=True),
    Column("SubAccountName", "text", "subaccountname.md", mandatory=False, nulls=True),
    Column("Tags", "object", "tags.md", mandatory=False, nulls=True),
)
NAMES = {column.name: column for column in COLUMNS}


@dataclass(frozen=True)
class Cross:
    """A rule between columns; it is asked only where all of `needs` are in the file."""

    text: str
    section: str
    needs: Sequence[str]
    holds: Callable[[Row], bool]


def _priced(row: Row) -> bool:
    """Whether unit prices and SKUs must be given: not for taxes, credits and corrections."""
    return row["ChargeCategory"] in ("Usage", "Purchase") and row["ChargeClass"] != "Correction"


def _both(first: str, second: str) -> Callable[[Row], bool]:
    return lambda row: bool(row[first]) == bool(row[second])


def _given_where_priced(name: str) -> Callable[[Row], bool]:
    return lambda row: bool(row[name]) or not _priced(row)


def _none_for_tax(name: str) -> Callable[[Row], bool]:
    return lambda row: row["ChargeCategory"] != "Tax" or not row[name]


def _pair(first: str, second: str, section: str) -> Cross:
    return Cross(
        f"{second} is null where {first} is, and only there",
        f"columns/{section}",
        (first, second),
        _both(first, second),
    )


def _needed(name: str, section: str) -> tuple[Cross, Cross]:
    needs = ("ChargeCategory", "ChargeClass", name)
    return (
        Cross(
            f"{name} is given for Usage and Purchase that is no Correction",
            f"columns/{section}",
            needs,
            _given_where_priced(name),
        ),
        Cross(f"{name} is null for Tax", f"columns/{section}", needs, _none_for_tax(name)),
    )


def _product_matches(row: Row) -> bool:
    price, quantity = row["ListUnitPrice"], row["PricingQuantity"]
    if not price or not quantity or row["ChargeClass"] == "Correction":
        return True
    return abs(Decimal(price) * Decimal(quantity) - Decimal(row["ListCost"])) <= Decimal("1e-9")


def _consumed(row: Row) -> bool:
    quantity = row["ConsumedQuantity"]
    if row["ChargeCategory"] != "Usage":
        return not quantity
    return bool(quantity) or row["ChargeClass"] == "Correction"


CROSS = (
    Cross(
        "BillingPeriodStart is before BillingPeriodEnd, which is exclusive",
        "columns/billingperiodend.md",
        ("BillingPeriodStart", "BillingPeriodEnd"),
        lambda row: row["BillingPeriodStart"] < row["BillingPeriodEnd"],
    ),
    Cross(
        "ChargePeriodStart is before ChargePeriodEnd, which is exclusive",
        "columns/chargeperiodend.md",
        ("ChargePeriodStart", "ChargePeriodEnd"),
        lambda row: row["ChargePeriodStart"] < row["ChargePeriodEnd"],
    ),
    Cross(
        "a charge lies within its billing period",
        "columns/chargeperiodstart.md",
        ("BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd"),
        lambda row: (
            row["BillingPeriodStart"] <= row["ChargePeriodStart"]
            and row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        ),
    ),
    Cross(
        "ChargeFrequency is not Usage-Based for a Purchase",
        "columns/chargefrequency.md",
        ("ChargeCategory", "ChargeFrequency"),
        lambda row: (row["ChargeCategory"], row["ChargeFrequency"]) != ("Purchase", "Usage-Based"),
    ),
    Cross(
        "ConsumedQuantity is given for Usage that is no Correction, and null for all but Usage",
        "columns/consumedquantity.md",
        ("ChargeCategory", "ChargeClass", "ConsumedQuantity"),
        _consumed,
    ),
    _pair("ConsumedQuantity", "ConsumedUnit", "consumedunit.md"),
    *_needed("PricingQuantity", "pricingquantity.md"),
    _pair("PricingQuantity", "PricingUnit", "pricingunit.md"),
    *_needed("ListUnitPrice", "listunitprice.md"),
    *_needed("PricingCategory", "pricingcategory.md"),
    *_needed("SkuId", "skuid.md"),
    *_needed("SkuPriceId", "skupriceid.md"),
    Cross(
        "ListCost is ListUnitPrice times PricingQuantity",
        "columns/listcost.md",
        ("ChargeClass", "ListCost", "ListUnitPrice", "PricingQuantity"),
        _product_matches,
    ),
    Cross(
        "ContractedCost is BilledCost, no contracted unit price being given",
        "columns/contractedcost.md",
        ("BilledCost", "ContractedCost"),
        lambda row: Decimal(row["BilledCost"]) == Decimal(row["ContractedCost"]),
    ),
    _pair("RegionId", "RegionName", "regionname.md"),
    _pair("ResourceId", "ResourceType", "resourcetype.md"),
    Cross(
        "ResourceName is null where ResourceId is, and never repeats it",
        "columns/resourcename.md",
        ("ResourceId", "ResourceName"),
        lambda row: not row["ResourceName"] or row["ResourceName"] != row["ResourceId"] != "",
    ),
    Cross(
        "SkuMeter is null where SkuId is",
        "columns/skumeter.md",
        ("SkuId", "SkuMeter"),
        lambda row: bool(row["SkuId"]) or not row["SkuMeter"],
    ),
    _pair("SubAccountId", "SubAccountName", "subaccountname.md"),
    Cross(
        f"each tag is the provider's, so its key begins with {PREFIX}",
        "columns/tags.md",
        ("Tags",),
        lambda row: all(key.startswith(PREFIX) for key in json.loads(row["Tags"] or "{}")),
    ),
    Cross(
        "ServiceSubcategory belongs to ServiceCategory",
        "columns/servicesubcategory.md",
        ("ServiceCategory", "ServiceSubcategory"),
        lambda row: (
            row["ServiceSubcategory"]
            in SUBCATEGORIES.get(row["ServiceCategory"], (row["ServiceSubcategory"],))
        ),
    ),
)


def validate(rows: Iterable[Row]) -> list[str]:
    """What breaks a rule, a sentence each, at most MOST; empty where nothing does.

    Rows are as `csv.DictReader` reads them, all with the same columns; memory is bounded by the
    number of SKU prices.
    """
    faults: list[str] = []
    parents: dict[str, str] = {}
    crossing: list[Cross] = []
    for number, row in enumerate(rows, 1):
        if number == 1:
            faults += header_faults(list(row))
            crossing = [rule for rule in CROSS if all(name in row for name in rule.needs)]
        faults += (f"row {number}: {fault}" for fault in _row_faults(row, crossing))
        sku, price = row.get("SkuId", ""), row.get("SkuPriceId", "")
        if price and parents.setdefault(price, sku) != sku:
            faults.append(
                f"row {number}: SkuPriceId {price[:60]} has two SkuIds (columns/skupriceid.md)"
            )
        if len(faults) >= MOST:
            return faults[:MOST]
    return faults


def header_faults(names: Sequence[str]) -> list[str]:
    """What breaks a rule in the names of the columns and their order."""
    where = "(attributes/column_handling.md)"
    faults = [
        f"the mandatory column {column.name} is missing (columns/{column.section})"
        for column in COLUMNS
        if column.mandatory and column.name not in names
    ]
    custom = False
    for place, name in enumerate(names):
        if name in names[:place]:
            faults.append(f"the column {name[:60]} stands twice {where}")
        if name.startswith("x_"):
            custom = True
        elif name not in NAMES:
            faults.append(f"the column {name[:60]} is no known one: prefix it with x_ {where}")
        elif custom:
            faults.append(f"the column {name} stands after custom ones {where}")
    return faults


def _row_faults(row: Row, crossing: Sequence[Cross]) -> list[str]:
    faults = []
    for name, column in NAMES.items():
        if name in row:
            fault = _cell_fault(column, row[name])
            if fault:
                faults.append(fault)
    if faults:  # rules between columns need cells that can be read
        return faults
    return [f"not so: {rule.text} ({rule.section})" for rule in crossing if not rule.holds(row)]


def _cell_fault(column: Column, value: str | None) -> str:
    section = f"(columns/{column.section})"
    if not value:
        return "" if column.nulls else f"{column.name} is null, which it must not be {section}"
    if column.allowed:
        fits = value in column.allowed
        return "" if fits else f"{column.name} is {value[:60]!r}, none of its values {section}"
    if not _FITS[column.kind](value):
        form, attribute = _FORMS[column.kind]
        return f"{column.name} is {value[:60]!r}: it must be {form} ({attribute})"
    if column.least is not None and Decimal(value) < column.least:
        return f"{column.name} is {value[:60]}, below {column.least} {section}"
    return ""


def _is_time(value: str) -> bool:
    try:
        return bool(_TIME.fullmatch(value) and datetime.fromisoformat(value))
    except ValueError:
        return False


def _is_object(value: str) -> bool:
    twice = []

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        twice.append(len({key for key, _ in found}) < len(found))
        return dict(found)

    try:
        held = json.loads(value, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return False
    flat = isinstance(held, dict) and not any(isinstance(v, dict | list) for v in held.values())
    return flat and not any(twice)


_FITS: Mapping[Kind, Callable[[str], bool]] = {
    "text": lambda value: bool(value.strip()),
    "decimal": lambda value: bool(_DECIMAL.fullmatch(value)),
    "time": _is_time,
    "currency": lambda value: bool(_CURRENCY.fullmatch(value)),
    "object": _is_object,
}
