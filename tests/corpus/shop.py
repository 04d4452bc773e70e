"""One small shop, the same for every writer of the corpus: 200 customers, three tables, and the traps that real lakes hold.

Amounts are multiples of 0.25, so that a double and a decimal say exactly the same. What is true of the shop is computed here from the
rows by plain loops; no engine has a part in it.
"""

import datetime as dt
import decimal
import random
import uuid

UTC = dt.timezone.utc
# The night of the corpus, midnight in UTC.
AS_OF = dt.datetime(2026, 7, 1, tzinfo=UTC)
CUSTOMERS = 200
# The shop began to record coupons on this day: older files may lack the column.
COUPONS_SINCE = dt.date(2026, 5, 1)
# On this day nobody used a coupon: the column is NULL in all of the day's rows.
NO_COUPONS = dt.date(2026, 6, 10)
# On this day an order has no customer and no number of items: pandas turns the integers of such a day into floats.
GUEST_DAY = dt.date(2026, 6, 12)

NOTES = [
    None,
    "",
    "plain",
    'a "quoted" word',
    "comma, semicolon; tab\tend",
    "two\nlines",
    "Grüße aus Köln",
    "日本語",
    "NULL",
    "NA",
    " space around ",
    "back\\slash",
]


def customers():
    """customer_id, signed_up_at, country (NULL for some)."""
    r = random.Random(1)
    rows = []
    for customer in range(1, CUSTOMERS + 1):
        signed_up = AS_OF - dt.timedelta(days=r.randint(1, 400), seconds=r.randint(0, 86_399))
        rows.append({"customer_id": customer, "signed_up_at": signed_up, "country": r.choice(["DE", "FR", "NO", None])})
    return rows


def orders():
    """order_id, customer_id, ordered_at, amount, items, coupon, refunded, note: 90 days and the first day after as_of."""
    r = random.Random(2)
    rows = []

    def order(customer, at, amount, items, coupon, refunded=False, note=None):
        rows.append(
            {
                "order_id": len(rows) + 1,
                "customer_id": customer,
                "ordered_at": at,
                "amount": amount,
                "items": items,
                "coupon": coupon if at.date() >= COUPONS_SINCE and at.date() != NO_COUPONS else None,
                "refunded": refunded,
                "note": note,
            }
        )

    for day in range(90, -1, -1):
        midnight = AS_OF - dt.timedelta(days=day)
        for _ in range(r.randint(4, 9)):
            order(
                r.randint(1, CUSTOMERS - 20),  # The last twenty never buy.
                midnight + dt.timedelta(microseconds=r.randint(0, 86_399_999_999)),
                r.randint(1, 4000) / 4,
                r.randint(1, 9),
                r.choice(["SUMMER", "WELCOME", "sommer 10 %", None]),
                r.random() < 0.1,
                r.choice(NOTES),
            )
    at = dt.datetime(GUEST_DAY.year, GUEST_DAY.month, GUEST_DAY.day, 9, tzinfo=UTC)
    order(None, at, 30.0, None, "GUEST")
    # The window's edges: the last microsecond before the night, the night itself, the first one of a window of seven days.
    order(7, AS_OF - dt.timedelta(microseconds=1), 1.25, 1, None, note="edge")
    order(7, AS_OF, 1000.0, 1, None, note="too late")
    order(7, AS_OF - dt.timedelta(days=7), 2.5, 2, "SUMMER", note="first of a week")
    order(7, AS_OF - dt.timedelta(days=7, microseconds=1), 5.0, 3, None, note="last before it")
    # Numbers that a float would round, or that look like other things.
    order(8, AS_OF - dt.timedelta(days=2), -12.5, 2**31 - 1, None, note="negative")
    order(8, AS_OF - dt.timedelta(days=2, hours=1), 2.0**40 + 0.25, 2**31 - 1, None, note="large")
    order(9, AS_OF - dt.timedelta(days=1), 0.0, 0, "", note="zero")
    # An order long ago: its files lie far from the others.
    order(10, dt.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC), 29.0, 1, None, note="leap")
    return rows


def events():
    """event_id (a UUID), customer_id, at (milliseconds), kind, seconds (a whole number of quarters)."""
    r = random.Random(3)
    rows = []
    for _ in range(1500):
        at = AS_OF - dt.timedelta(milliseconds=r.randint(-3_600_000, 60 * 86_400_000))
        rows.append(
            {
                "event_id": uuid.UUID(int=r.getrandbits(128), version=4),
                "customer_id": r.randint(1, CUSTOMERS),
                "at": at,
                "kind": r.choice(["view", "cart", "search"]),
                "seconds": r.choice([None, r.randint(0, 400) / 4]),
            }
        )
    return rows


FEATURES = {
    "orders.sql": """\
-- @description  Orders and money.
-- @owner        growth
-- @windows      7d 30d lifetime
SELECT
    customer_id,
    count(*)                                   AS orders,         -- orders
    sum(amount)                                AS spend,          -- money
    sum(items)                                 AS items,          -- items
    count(coupon)                              AS with_coupon,    -- orders with a coupon
    count(DISTINCT coupon)                     AS coupons,        -- different coupons
    sum(CASE WHEN refunded THEN 1 ELSE 0 END)  AS refunds,        -- refunded orders
    count(DISTINCT date_trunc('day', ordered_at)) AS order_days,  -- days with an order
    max(ordered_at)                            AS last_order_at,  -- time of the newest order
    max(note)                                  AS last_note       -- the greatest note
FROM orders
GROUP BY customer_id
""",
    "events.sql": """\
-- @description  Events.
-- @owner        growth
-- @windows      30d lifetime
SELECT
    customer_id,
    count(*)                       AS events,      -- events
    count(DISTINCT event_id)       AS event_ids,   -- different events
    sum(seconds)                   AS seconds,     -- seconds spent
    min(at)                        AS first_event_at, -- time of the oldest event
    count(DISTINCT kind)           AS kinds        -- kinds of events
FROM events
GROUP BY customer_id
""",
    "profile.sql": """\
-- @description  Who it is.
-- @owner        growth
SELECT customer_id, country AS country FROM customers  -- where the customer lives
""",
}


def truth():
    """The features of every customer who was there: {column: value} by key; times in microseconds since 1970."""
    micros = lambda at: None if at is None else (at - dt.datetime(1970, 1, 1, tzinfo=UTC)) // dt.timedelta(microseconds=1)
    bought, seen = orders(), events()
    result = {}
    for customer in customers():
        key = customer["customer_id"]
        if customer["signed_up_at"] >= AS_OF:
            continue
        row = {"country": customer["country"]}
        for window, days in {"7d": 7, "30d": 30, "lifetime": 100_000}.items():
            first = AS_OF - dt.timedelta(days=days)
            mine = [o for o in bought if o["customer_id"] == key and first <= o["ordered_at"] < AS_OF]
            coupons = [o["coupon"] for o in mine if o["coupon"] is not None]
            row[f"orders_{window}"] = len(mine)
            row[f"spend_{window}"] = sum(decimal.Decimal(o["amount"]) for o in mine)
            row[f"items_{window}"] = sum(o["items"] for o in mine if o["items"] is not None)
            row[f"with_coupon_{window}"] = len(coupons)
            row[f"coupons_{window}"] = len(set(coupons))
            row[f"refunds_{window}"] = sum(o["refunded"] for o in mine)
            row[f"order_days_{window}"] = len({o["ordered_at"].date() for o in mine})
            row[f"last_order_at_{window}"] = micros(max((o["ordered_at"] for o in mine), default=None))
            row[f"last_note_{window}"] = max((o["note"] for o in mine if o["note"] is not None), default=None, key=lambda n: n.encode())
        for window, days in {"30d": 30, "lifetime": 100_000}.items():
            first = AS_OF - dt.timedelta(days=days)
            mine = [e for e in seen if e["customer_id"] == key and first <= e["at"] < AS_OF]
            row[f"events_{window}"] = len(mine)
            row[f"event_ids_{window}"] = len({e["event_id"] for e in mine})
            row[f"seconds_{window}"] = sum(decimal.Decimal(e["seconds"]) for e in mine if e["seconds"] is not None)
            row[f"first_event_at_{window}"] = micros(min((e["at"] for e in mine), default=None))
            row[f"kinds_{window}"] = len({e["kind"] for e in mine})
        result[key] = {name: float(value) if isinstance(value, decimal.Decimal) else value for name, value in row.items()}
    return result
