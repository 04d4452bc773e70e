-- @description  Orders that were paid and kept: one row each, the amount after discounts.
-- @owner        growth
-- @event_time   ordered_at
SELECT
    order_id,                              -- the order
    customer_id,                           -- who placed it
    ordered_at,                            -- when it was placed
    category,                              -- the category of most of its items
    items,                                 -- pieces in the order
    amount,                                -- what was paid, after discounts, in the shop's currency
    discount                               -- what the discount took off
FROM orders
WHERE NOT refunded
