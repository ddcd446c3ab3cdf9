"""The tensors of a mixture of experts, and where checkpoints keep them.

In a vindex every expert has tensors of its own, under the keys of a checkpoint that keeps them
apart (``layers.0.mlp.experts.7.up_proj.weight``), as larql has it. Gate rows go to the layer's
block of ``gate_vectors.bin``, up and down matrices and the router to the files of those of dense
layers, biases and norms to ``norms.bin``.

Checkpoints may hold the tensors of all experts stacked; ``Stacked`` describes such a tensor.

Notation: D hidden, E experts, I features of an expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vindex.kinds import ExtractLevel
from vindex.spec import (
    Cut,
    FfnSpec,
    MoeSpec,
    PartKind,
    Role,
    StorageFile,
    TensorSpec,
    part_roles,
)


@dataclass(frozen=True, slots=True)
class Stacked:
    """A checkpoint tensor ``[E, …]`` that holds the same matrices or vectors of every expert.

    Attributes:
        key: its key; ``{layer}`` stands for the layer.
        roles: what the part of one expert holds, from the first row on.
        alternating: the roles' rows take turns instead of following each other.
        transposed: the part of one expert is ``[in, out]``.
        released: it is how released files have it, not one of several ways; a checkpoint that
            has neither lacks this key.
    """

    key: str
    roles: tuple[Role, ...]
    alternating: bool = False
    transposed: bool = False
    released: bool = False

    def cuts(self, role: Role, layer: int, experts: int, shape: tuple[int, ...]) -> tuple[Cut, ...]:
        """Where the tensor of each expert lies in it.

        Args:
            role: one of ``roles``, whose tensors have equally many rows.
            experts: E.
            shape: of an expert's tensor.
        """
        place, rows = self.roles.index(role), shape[0]
        part = (len(self.roles) * rows, *shape[1:])
        whole = (experts, *(part[::-1] if self.transposed else part))
        start, stop, blocks = place * rows, (place + 1) * rows, 1
        if self.alternating:
            start, stop, blocks = place, place + 1, rows
        key = self.key.format(layer=layer)
        return tuple(
            Cut(key, whole, start, stop, blocks, self.transposed, expert)
            for expert in range(experts)
        )


#: What transformers makes of experts in memory, and writes where it does not undo that.
FUSED_EXPERTS = (
    Stacked("layers.{layer}.mlp.experts.gate_up_proj", (Role.EXPERT_GATE, Role.EXPERT_UP)),
    Stacked("layers.{layer}.mlp.experts.down_proj", (Role.EXPERT_DOWN,)),
)

#: What the reader of GGUF files calls their stacks of gate and of up matrices; the name above is
#: that of down matrices.
GGUF_EXPERTS = tuple(
    Stacked(f"layers.{{layer}}.mlp.experts.gguf_{role.value}", (role,))
    for role in (Role.EXPERT_GATE, Role.EXPERT_UP)
)

Need = tuple[Role, tuple[int, ...], StorageFile, ExtractLevel]


def expert_tensors(
    moe: MoeSpec,
    layer: int,
    hidden: int,
    keys: Mapping[Role, str],
    stacked: tuple[Stacked, ...],
    aliases: Mapping[Role, str],
) -> Iterator[TensorSpec]:
    """The tensors of a layer's mixture, but for those of the dense FFN beside it.

    Args:
        keys: by role; ``{layer}`` and ``{expert}`` stand for the numbers.
        stacked: tensors of checkpoints that hold those of all experts.
        aliases: other keys that checkpoints have for whole tensors.
    """
    experts = moe.routing.experts
    needs = []
    for need in _ffn_needs(PartKind.EXPERT, moe.expert, hidden):
        role, shape = need[:2]
        ways = [each.cuts(role, layer, experts, shape) for each in stacked if role in each.roles]
        needs.append((*need, keys[role].format(layer=layer, expert="{expert}"), ways))
    released = {each.key.format(layer=layer) for each in stacked if each.released}
    for expert in range(experts):
        for role, shape, file, level, key, ways in needs:
            cuts = tuple(way[expert] for way in ways)
            main = next((cut for cut in cuts if cut.key in released), None)
            others = cuts if main is None else tuple(cut for cut in cuts if cut is not main)
            yield TensorSpec(
                role,
                layer,
                key.format(expert=expert),
                shape,
                file,
                level,
                cut=main,
                others=others,
                expert=expert,
            )
    for role, shape, file, level in _other_needs(moe, hidden):
        alias = aliases.get(role)
        others = () if alias is None else (Cut(alias.format(layer=layer), shape, 0, shape[0]),)
        yield TensorSpec(
            role, layer, keys[role].format(layer=layer), shape, file, level, others=others
        )


def _ffn_needs(kind: PartKind, ffn: FfnSpec, hidden: int) -> Iterator[Need]:
    gate, up, down = part_roles(kind)
    at_inference = ExtractLevel.INFERENCE
    yield gate, (ffn.width, hidden), StorageFile.GATE, ExtractLevel.BROWSE
    yield up, (ffn.width, hidden), StorageFile.UP, at_inference
    yield down, (hidden, ffn.width), StorageFile.DOWN, at_inference
    if ffn.bias:
        assert kind is PartKind.EXPERT, "no family has biases on a shared expert"
        yield gate.bias, (ffn.width,), StorageFile.NORMS, at_inference
        yield up.bias, (ffn.width,), StorageFile.NORMS, at_inference
        yield down.bias, (hidden,), StorageFile.NORMS, at_inference


def _other_needs(moe: MoeSpec, hidden: int) -> Iterator[Need]:
    routing, at_inference = moe.routing, ExtractLevel.INFERENCE
    if moe.shared is not None:
        yield from _ffn_needs(PartKind.SHARED, moe.shared, hidden)
    if moe.shared_switch:
        yield Role.SHARED_SWITCH, (1, hidden), StorageFile.UP, at_inference
    yield Role.ROUTER, (routing.experts, hidden), StorageFile.UP, at_inference
    vectors = (
        (Role.ROUTER_BIAS, routing.experts, routing.bias),
        (Role.ROUTER_CORRECTION_BIAS, routing.experts, routing.correction),
        (Role.ROUTER_SCALE, hidden, routing.norm is not None),
        (Role.EXPERT_SCALE, routing.experts, routing.expert_scale),
        (Role.DENSE_POST_NORM, hidden, moe.beside is not None),
        (Role.EXPERTS_NORM, hidden, moe.beside is not None),
        (Role.EXPERTS_POST_NORM, hidden, moe.beside is not None),
    )
    for role, size, present in vectors:
        if present:
            yield role, (size,), StorageFile.NORMS, at_inference
