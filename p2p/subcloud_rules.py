"""Owns what a network configuration says about subclouds and about landmarks. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from p2p.approved_models import Frozen
from p2p.limits import AMOUNT_MICROCREDITS_MAX

Label = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
SubcloudText = Annotated[
    str, pydantic.StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?-[0-9a-f]{32}$")
]
Country = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Z]{2}$")]
RESERVED_LABELS = ("global", "admin", "resultity", "network", "none", "default", "all")
"""Would be taken for something else in a model's name or a log."""


class AssignedLabel(Frozen):
    """The authority's word on whose a name is, where two want it: it overrides the registry."""

    label: Label
    subcloud_id: SubcloudText


class SubcloudRules(Frozen):
    """Who may create subclouds, and what becomes of names.

    `creation`: anybody may (`open`), the authority lists who may (`approval`: the IDs in
    `approved`), or who sets credits aside (`stake`: `stake_microcredits`, given back when the
    subcloud has ended). `reserved_labels` are given to nobody by the registry, `assigned_labels`
    to whom the authority says. `banned`: subclouds that nothing runs in.
    """

    creation: Literal["open", "approval", "stake"] = "open"
    approved: Annotated[tuple[SubcloudText, ...], pydantic.Field(max_length=1000)] = ()
    stake_microcredits: Annotated[int, pydantic.Field(ge=0, le=AMOUNT_MICROCREDITS_MAX)] = 0
    reserved_labels: Annotated[tuple[Label, ...], pydantic.Field(max_length=1000)] = ()
    assigned_labels: Annotated[tuple[AssignedLabel, ...], pydantic.Field(max_length=1000)] = ()
    banned: Annotated[tuple[SubcloudText, ...], pydantic.Field(max_length=1000)] = ()

    @pydantic.model_validator(mode="after")
    def _labels_are_unique(self) -> SubcloudRules:
        labels = [assigned.label for assigned in self.assigned_labels]
        if len(set(labels)) != len(labels):
            raise ValueError("subclouds.assigned_labels: a label is assigned twice")
        if self.creation == "stake" and not self.stake_microcredits:
            raise ValueError("subclouds.creation: a stake needs stake_microcredits")
        return self

    def assigned(self, label: str) -> str | None:
        """Whose a label is by the authority's word: a subcloud's ID, or None."""
        found = (a.subcloud_id for a in self.assigned_labels if a.label == label)
        return next(found, None)

    def is_reserved(self, label: str) -> bool:
        """Whether the registry gives a label to nobody."""
        return label in RESERVED_LABELS or label in self.reserved_labels


class Landmark(Frozen):
    """A peer whose place the authority vouches for: it measures round trips to nodes.

    A node whose direct round trip to it is at most `round_trip_ms_max` is near enough to be in one
    of `countries`.
    """

    peer_id: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=128)]
    countries: Annotated[tuple[Country, ...], pydantic.Field(min_length=1, max_length=64)]
    round_trip_ms_max: Annotated[float, pydantic.Field(gt=0, le=1000)]
