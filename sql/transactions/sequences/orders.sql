-- @description  Orders and returns one by one.
-- @owner        growth
-- @event_time   ordered_at
SELECT
    customer_id,
    ordered_at,                            -- when its first line was written
    amount,                                -- money of the order; a return's is negative
    items                                  -- pieces in it
FROM orders
