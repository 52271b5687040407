"""Chooses connections in all nodes for the server API: those of a user, an id, or a session. Knows no HTTP."""

from collections.abc import Callable, Mapping

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.envelopes import MAX_IDS
from wsgateway.cluster.owners import ask_owners
from wsgateway.cluster.questions import Choose, Refresh
from wsgateway.cluster.single import AnyCluster
from wsgateway.hub.hub import Hub
from wsgateway.protocols.session import Session


class Choosing:
    """Chooses connections, and lets them expire. `answering` answers the questions of other nodes.

    `sessions` returns the sessions of this process by their secrets. A node that does not answer in time is logged, and
    left out.
    """

    def __init__(
        self, hub: Hub, sessions: Callable[[], Mapping[str, Session]], cluster: Callable[[], AnyCluster]
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._cluster = cluster
        self.answering: Answering = {Choose: self._answer_choose, Refresh: self._answer_refresh}

    async def choose(self, user: str, client: str, session: str) -> list[str]:
        """Return the ids of the open connections of `user`, of those only `client` and that of `session`, if given.

        With an empty `user`, `client` is required.
        """
        assert user or client, "an empty user would be every connection"
        question = Choose(user, [client] if client else None, session)
        ids = self._choose(question)
        if client and ids:
            return ids
        others, _ = await ask_owners(self._cluster(), question, question.ids)
        return [*ids, *(conn_id for answer in others for conn_id in answer)]

    def _choose(self, question: Choose) -> list[str]:
        conns = self._hub.select(None if question.user else question.ids or (), question.user)
        if question.ids is not None:
            conns = [conn for conn in conns if conn.id in question.ids]
        if question.session:
            session = self._sessions().get(question.session)
            conns = [conn for conn in conns if session is not None and conn is session.conn]
        return [conn.id for conn in conns[:MAX_IDS]]

    async def refresh(self, ids: list[str] | None, user: str, expires_at: float | None) -> int:
        """Let the connections with `ids`, or of `user`, expire at `expires_at`, and return their number.

        The time is in seconds since the epoch, None for never.
        """
        question = Refresh(ids, user, expires_at)
        own = self._refresh(question)
        others, _ = await ask_owners(self._cluster(), question, ids)
        return own + sum(others)

    def _refresh(self, question: Refresh) -> int:
        conns = self._hub.select(question.ids or (), question.user)
        for conn in conns:
            if conn.expires_at != question.expires_at:
                conn.expires_at = question.expires_at
        return len(conns)

    # Questions of other nodes

    async def _answer_choose(self, question: Choose) -> list[str]:
        return self._choose(question)

    async def _answer_refresh(self, question: Refresh) -> int:
        return self._refresh(question)
