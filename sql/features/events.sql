-- @description  What a customer does in the shop without buying.
-- @owner        web
-- @windows      7d 30d 90d
SELECT
    customer_id,
    count(*)                                            AS events,            -- everything that was recorded
    sum(CASE WHEN kind = 'view' THEN 1 ELSE 0 END)      AS views,             -- product pages seen
    sum(CASE WHEN kind = 'search' THEN 1 ELSE 0 END)    AS searches,          -- searches
    sum(CASE WHEN kind = 'cart' THEN 1 ELSE 0 END)      AS carts,             -- products put into the cart
    sum(CASE WHEN kind = 'support' THEN 1 ELSE 0 END)   AS support_contacts,  -- contacts with customer service
    sum(seconds)                                        AS seconds,           -- seconds spent
    count(DISTINCT date_trunc('day', occurred_at))      AS visit_days         -- days with a visit
FROM events
GROUP BY customer_id
