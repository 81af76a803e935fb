"""Claims of nodes, and the exposure of gateways with what they hold and have charged already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_HELD = (
    "SELECT gateway_id, SUM(maximum - charged - returned) FROM ledger_holds "
    "WHERE state = 'open' GROUP BY gateway_id"
)
_CHARGED = (
    "SELECT h.gateway_id, t.at_ms / 86400000 AS day, -SUM(e.amount) FROM ledger_transfers t "
    "JOIN ledger_holds h ON h.number = t.hold_number "
    "JOIN ledger_entries e ON e.transfer = t.number "
    "AND (e.account LIKE 'held:%' OR e.account LIKE 'namespace:%') "
    "WHERE t.kind IN ('capture', 'leased_capture') "
    "GROUP BY h.gateway_id, t.at_ms / 86400000 HAVING SUM(e.amount) < 0 ORDER BY day"
)


def upgrade() -> None:
    """Change them."""
    op.create_table(
        "ledger_claims",
        sa.Column("hold_id", sa.LargeBinary(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("payer", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["payer"], ["ledger_holds.number"]),
        sa.PrimaryKeyConstraint("hold_id", "attempt"),
    )
    op.create_index(
        "ledger_claims_open",
        "ledger_claims",
        ["payer"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index("ledger_claims_payer", "ledger_claims", ["payer"], unique=False)
    op.create_table(
        "ledger_gateway_exposure",
        sa.Column("gateway_id", sa.String(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held >= 0", name="exposure_is_not_negative"),
        sa.PrimaryKeyConstraint("gateway_id"),
    )
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    held = {row[0]: int(row[1]) for row in connection.exec_driver_sql(_HELD)}
    # The newest day is read last, and stays.
    text = sa.text(_CHARGED)
    charged = {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(text)}
    for gateway_id in sorted({*held, *charged}):
        day, amount = charged.get(gateway_id, (0, 0))
        connection.execute(
            sa.text(
                "INSERT INTO ledger_gateway_exposure (gateway_id, held, day, charged) "
                "VALUES (:gateway_id, :held, :day, :charged)"
            ),
            {
                "gateway_id": gateway_id,
                "held": held.get(gateway_id, 0),
                "day": day,
                "charged": amount,
            },
        )
