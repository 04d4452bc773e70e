-- @description  On which days of the week a customer buys: shares of all purchases.
-- @owner        growth
SELECT
    customer_id,
    avg(CASE WHEN date_part('dow', ordered_at) = 0 THEN 1.0 ELSE 0.0 END) AS sunday_share,     -- share of purchases on a Sunday
    avg(CASE WHEN date_part('dow', ordered_at) = 1 THEN 1.0 ELSE 0.0 END) AS monday_share,     -- share of purchases on a Monday
    avg(CASE WHEN date_part('dow', ordered_at) = 2 THEN 1.0 ELSE 0.0 END) AS tuesday_share,    -- share of purchases on a Tuesday
    avg(CASE WHEN date_part('dow', ordered_at) = 3 THEN 1.0 ELSE 0.0 END) AS wednesday_share,  -- share of purchases on a Wednesday
    avg(CASE WHEN date_part('dow', ordered_at) = 4 THEN 1.0 ELSE 0.0 END) AS thursday_share,   -- share of purchases on a Thursday
    avg(CASE WHEN date_part('dow', ordered_at) = 5 THEN 1.0 ELSE 0.0 END) AS friday_share,     -- share of purchases on a Friday
    avg(CASE WHEN date_part('dow', ordered_at) = 6 THEN 1.0 ELSE 0.0 END) AS saturday_share    -- share of purchases on a Saturday
FROM orders
WHERE amount > 0
GROUP BY customer_id
