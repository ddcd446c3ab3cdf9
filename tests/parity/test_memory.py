"""Models of transformers in memory: asked where they are, and given back as they were."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import lql
from lql.api.models import TransformersModel
from lql.errors import LqlCapabilityError, LqlCheckpointError
from lql.session import Session
from tests.parity.checkpoints import Row, Spelling, tokenizer
from tests.parity.laboratory import LOGITS_WITHIN, Form, Laboratory, largest, prompt_ids
from tests.parity.reference import Floats, Reference
from tests.parity.rows import ROWS
from vindex.edits import DropFeature
from vindex.kinds import StorageDtype
from vindex.overlay import Edit

STORED = Form(Spelling.V5, StorageDtype.F32)


class Tokenizer:
    """A tokenizer as transformers' are used here: it saves itself."""

    def save_pretrained(self, save_directory: str) -> None:
        tokenizer().save(str(Path(save_directory) / "tokenizer.json"))


def row(name: str) -> Row:
    return next(each for each in ROWS if each.name == name)


def logits_of(given: TransformersModel) -> Floats:
    """What transformers computes with a model that was given to it, as the README says."""
    config = AutoConfig.for_model(**given.config)
    kind = type(AutoModelForCausalLM.from_config(config))
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=given.state_dict,
        attn_implementation="eager",
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(report.values()), report  # nothing missing, nothing left over
    return Reference(model.eval()).logits(prompt_ids())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("each", ROWS, ids=str)
def test_a_model_in_memory_answers_as_it_does_itself(each: Row, laboratory: Laboratory) -> None:
    written = laboratory.written(each)

    with lql.from_transformers(written.model, Tokenizer()) as session:
        found = session.model().logits(prompt_ids())

    assert largest(found, laboratory.expected(each).logits) < LOGITS_WITHIN


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("each", ROWS, ids=str)
def test_what_is_given_back_is_the_model_bit_for_bit(each: Row, laboratory: Laboratory) -> None:
    with laboratory.source(each, STORED) as vindex, Session() as session:
        session.use_source(vindex)  # type: ignore[arg-type]
        given = session.to_transformers()

    assert np.array_equal(logits_of(given), laboratory.expected(each).logits)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gpt-neox", "mixtral"])
def test_edits_are_in_the_weights(name: str, laboratory: Laboratory) -> None:
    with laboratory.source(row(name), STORED) as vindex, Session() as session:
        session.use_source(vindex)  # type: ignore[arg-type]
        edit = Edit("off", tuple(DropFeature(1, feature) for feature in range(3)))
        session.overlay.commit(edit)
        expected = session.model().logits(prompt_ids())
        given = session.to_transformers()
        session.discard_edits()

    found = logits_of(given)
    assert largest(found, expected) < LOGITS_WITHIN
    assert largest(found, laboratory.expected(row(name)).logits) > 10 * LOGITS_WITHIN


def test_statements_take_texts_with_a_tokenizer_only(laboratory: Laboratory) -> None:
    model = laboratory.written(row("llama")).model
    with lql.from_transformers(model, Tokenizer()) as session:
        assert len(session.infer("the quick", top=3).tokens) == 3
        assert session.stats().layers == model.config.num_hidden_layers
    with lql.from_transformers(model) as session, pytest.raises(LqlCheckpointError) as raised:
        session.infer("the quick")
    assert "tokenizer.json" in str(raised.value)


def test_another_family_and_other_tensors_are_refused(laboratory: Laboratory) -> None:
    model = laboratory.written(row("llama")).model

    class Strange:
        config = model.config

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {**model.state_dict(), "model.layers.0.adapter.weight": torch.zeros(2, 2)}

    with pytest.raises(LqlCheckpointError, match="adapter"):
        lql.from_transformers(Strange())

    class Quantised(Strange):
        def state_dict(self) -> dict[str, torch.Tensor]:
            return {name: each.to(torch.int8) for name, each in model.state_dict().items()}

    with pytest.raises(LqlCheckpointError, match="int8"):
        lql.from_transformers(Quantised())

    class Unknown:
        class config:
            @staticmethod
            def to_dict() -> dict[str, object]:
                return {"model_type": "no-such-model"}

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {}

    with pytest.raises(LqlCapabilityError, match="no-such-model"):
        lql.from_transformers(Unknown())


def test_bfloat16_keeps_its_bits_both_ways(laboratory: Laboratory) -> None:
    model = copy.deepcopy(laboratory.written(row("llama-bf16")).model).to(torch.bfloat16)
    with lql.from_transformers(model, Tokenizer()) as session:
        state = session.to_transformers().state_dict
    assert {each.dtype for each in state.values()} == {torch.bfloat16}
    own = model.state_dict()
    assert all(torch.equal(each, own[name]) for name, each in state.items())
