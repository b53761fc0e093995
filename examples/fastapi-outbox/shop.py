"""Serves a shop that notifies a customer inside the transaction that stores the order."""

from __future__ import annotations

import os
from typing import Annotated, Any, Dict, Iterator

import psycopg
from fastapi import Depends, FastAPI, HTTPException
from psycopg.types.json import Jsonb
from pydantic import BaseModel, Field

SCHEMA = """
    CREATE TABLE IF NOT EXISTS shop_stock (item text PRIMARY KEY, quantity integer NOT NULL CHECK (quantity >= 0));
    CREATE TABLE IF NOT EXISTS shop_order (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer text NOT NULL,
        item text NOT NULL REFERENCES shop_stock,
        quantity integer NOT NULL,
        notification uuid
    );
    INSERT INTO shop_stock VALUES ('lamp', 10), ('vase', 10) ON CONFLICT DO NOTHING;
"""


class NewOrder(BaseModel):
    """The body of `POST /orders`."""

    customer: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    item: str
    quantity: int = Field(ge=1, le=1_000)


def database() -> Iterator[psycopg.Connection[Any]]:
    """Opens a connection for one request. Its transaction commits if the request succeeds, and rolls back if not."""
    with psycopg.connect(os.environ["SHOP_DATABASE_URL"]) as connection:
        yield connection


# With this scope the transaction ends before the answer is sent: 201 means committed.
Database = Annotated["psycopg.Connection[Any]", Depends(database, scope="function")]


def create_app() -> FastAPI:
    """Creates the tables where they are missing, and returns the service."""
    with psycopg.connect(os.environ["SHOP_DATABASE_URL"]) as connection:
        connection.execute(SCHEMA)
    app = FastAPI(title="shop")

    @app.post("/orders", status_code=201)
    def place_order(order: NewOrder, connection: Database) -> Dict[str, Any]:
        """Stores an order and its notification: both are committed, or neither."""
        try:
            order_id = store(connection, order)
            notification = notify(connection, order_id, order)
            # Comes last to show that a rollback takes the notification along.
            take_from_stock(connection, order)
        except psycopg.errors.ForeignKeyViolation:
            raise HTTPException(404, "there is no such item") from None
        except psycopg.errors.CheckViolation:
            raise HTTPException(409, "there are not that many left") from None
        return {"order_id": order_id, "notification": notification}

    return app


def store(connection: psycopg.Connection[Any], order: NewOrder) -> int:
    """Inserts the order and returns its number."""
    row = connection.execute(
        "INSERT INTO shop_order (customer, item, quantity) VALUES (%s, %s, %s) RETURNING id",
        (order.customer, order.item, order.quantity),
    ).fetchone()
    assert row is not None
    return int(row[0])


def notify(connection: psycopg.Connection[Any], order_id: int, order: NewOrder) -> str:
    """Writes the notification to the outbox of the hub, and its id next to the order. No hub has to run for it."""
    data = Jsonb({"order_id": str(order_id), "item": order.item, "quantity": order.quantity})
    row = connection.execute(
        "UPDATE shop_order SET notification = recado.notify('order_created', 'Order placed', %s, %s, user_id => %s)"
        " WHERE id = %s RETURNING notification",
        (f"Your order #{order_id} was placed", data, order.customer, order_id),
    ).fetchone()
    assert row is not None
    return str(row[0])


def take_from_stock(connection: psycopg.Connection[Any], order: NewOrder) -> None:
    """Subtracts from the stock. A check of the table refuses a quantity below 0."""
    connection.execute("UPDATE shop_stock SET quantity = quantity - %s WHERE item = %s", (order.quantity, order.item))
