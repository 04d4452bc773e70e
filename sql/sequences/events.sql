-- @description  What a customer did in the shop, one by one: visits and paid orders.
-- @owner        web
-- @event_time   occurred_at
SELECT
    customer_id,
    occurred_at,                                       -- when it happened
    kind,                                              -- what it was: view, search, cart, support
    CAST(NULL AS VARCHAR)           AS category,       -- of what; an order's alone is known
    CAST(seconds AS DOUBLE)         AS seconds,        -- how long it took
    CAST(NULL AS DOUBLE)            AS amount          -- what was paid
FROM events
UNION ALL
SELECT
    customer_id,
    ordered_at,
    'order',
    category,
    NULL,
    amount
FROM paid_orders
