"""Tokens by expert: counted once, summed over the window."""

from handmade import S, deployment, envelope

from telemetry.fold import Fold
from telemetry.records import ExpertRecord

T = 1000 * S


def experts_of(*records, now=T + 10 * S, **layout):
    fold = Fold()
    for record in (deployment(**layout), *records):
        fold.add(envelope(record, sender="daemon"), T + 100 * S)
    return fold.snapshot(now).deployments[0].experts


def took(rank, tokens, end=T + 9 * S, layers=(0, 1), experts=(0, 1)):
    return ExpertRecord(rank, 1, end - S, end, list(layers), list(experts), [list(row) for row in tokens])


def test_a_dense_model_has_none():
    assert experts_of() is None


def test_ranks_of_a_tp_group_hold_parts_of_the_same_experts():
    records = [took(rank, [[5, 1], [3, 3]], experts=[2 * (rank // 2), 2 * (rank // 2) + 1]) for rank in range(4)]
    view = experts_of(*records, ep=2, tp=2)
    assert view.owners == (0, 0, 1, 1)
    assert view.layers == (0, 1)
    assert view.tokens == ((5, 1, 5, 1), (3, 3, 3, 3))


def test_each_rank_shows_its_own_experts_all_layers_together():
    fold = Fold()
    for record in (deployment(tp=2), took(1, [[5, 1], [3, 3]]), took(1, [[1, 0], [0, 0]])):
        fold.add(envelope(record, sender="daemon"), T + 100 * S)
    assert [rank.expert_tokens for rank in fold.snapshot(T + 10 * S).deployments[0].ranks] == [None, (9, 4)]


def test_stages_bring_layers_and_replicas_add_up():
    records = [took(0, [[1, 2]], layers=[0]), took(1, [[3, 4]], layers=[5]), took(2, [[10, 20]], layers=[0])]
    view = experts_of(*records, dp=2, pp=2)
    assert view.layers == (0, 5)
    assert view.tokens == ((11, 22), (3, 4))


def test_the_window_slides():
    records = [took(0, [[100, 0]], end=T + i * S, layers=[0]) for i in range(1, 21)]
    assert experts_of(*records, now=T + 21 * S).tokens == ((1000, 0),)
    assert experts_of(*records, now=T + 60 * S).tokens == ()


def test_an_expert_of_which_nobody_told_has_no_owner():
    assert experts_of(took(0, [[7]], layers=[3], experts=[2])).owners == (-1, -1, 0)


def test_what_no_sender_may_claim_is_bounded():
    view = experts_of(took(0, [[1, 1, 1]] * 1000, layers=range(1000), experts=[0, 1 << 40, -5]))
    assert len(view.layers) <= 256
    assert view.owners == (0,)
