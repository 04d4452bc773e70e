-- @description  One row per order: its lines added up, dated by the first of them. A negative amount is a return.
-- @owner        growth
-- @event_time   ordered_at
SELECT
    customer_id,                           -- who ordered
    order_id,                              -- the order
    min(ordered_at) AS ordered_at,         -- when its first line was written
    sum(amount)     AS amount,             -- money of all lines; returns are negative
    sum(items)      AS items               -- pieces of all lines
FROM lines
GROUP BY customer_id, order_id
