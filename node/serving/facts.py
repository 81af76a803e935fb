"""Owns what a model file is to the network: its facts and its advert. Pure."""

from __future__ import annotations

from node.agent.runtime_port import ModelFacts
from node.runtime_messages import RuntimeFacts
from node.serving.shelf import FileFacts
from p2p.adverts import ModelAdvert
from p2p.embeddings import CHAT, EMBEDDINGS
from p2p.network_configuration import ApprovedModel


def tasks_of(
    file: FileFacts, approved: ApprovedModel | None, runtime: RuntimeFacts | None
) -> tuple[str, ...]:
    """The tasks that the network approves it for and that it does (the runtime knows best; until
    it is asked: what chats also makes embeddings)."""
    if runtime is None:
        does = tuple(getattr(file, "tasks", (CHAT,)))
        does += (EMBEDDINGS,) if approved is not None and CHAT in does else ()
    else:
        does = runtime.tasks
    return does if approved is None else tuple(task for task in approved.tasks if task in does)


def facts_of(
    file: FileFacts, approved: ApprovedModel | None, runtime: RuntimeFacts | None
) -> ModelFacts:
    """What this model is; under the network's name for it, if it has one."""
    return ModelFacts(
        name=file.name if approved is None else approved.name,
        digest=file.digest,
        model_id=file.model_id,
        quantisation=file.quantisation,
        tasks=tasks_of(file, approved, runtime),
    )


def make_advert(
    facts: ModelFacts,
    approved: ApprovedModel,
    *,
    context_tokens: int,
    slots: int,
    mode: str = "",
) -> ModelAdvert:
    """What to advertise of an active model; `mode` is known once it is loaded."""
    return ModelAdvert(
        name=facts.name,
        digest=facts.digest,
        model_id=facts.model_id,
        context_tokens=min(context_tokens, approved.context_tokens),
        quantisation=facts.quantisation,
        slots=slots,
        tasks=facts.tasks,
        modalities=facts.modalities,
        mode=mode,
    )
