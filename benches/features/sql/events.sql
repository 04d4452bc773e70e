-- @description  What a customer does in the shop without buying.
-- @owner        bench
-- @windows      7d 30d 90d 180d 365d lifetime
SELECT
    customer_id,
    count(*) FILTER (WHERE kind = 'view')       AS views,        -- product pages seen
    count(*) FILTER (WHERE kind = 'cart')       AS carts,        -- products put into the cart
    count(*) FILTER (WHERE kind = 'wishlist')   AS wishlists,    -- products put on the wish list
    count(*) FILTER (WHERE kind = 'search')     AS searches,     -- searches
    count(*) FILTER (WHERE kind = 'email_open') AS email_opens,  -- e-mails opened
    sum(seconds)                                AS seconds,      -- seconds spent
    count(DISTINCT CAST(occurred_at AS DATE))   AS active_days   -- days with an event, in UTC
FROM events
GROUP BY customer_id
