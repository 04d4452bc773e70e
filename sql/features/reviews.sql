-- @description  Stars given in reviews.
-- @owner        service
-- @windows      90d lifetime
SELECT
    customer_id,
    count(*)    AS reviews,                -- reviews written
    avg(rating) AS average_rating,         -- mean stars, 1 to 5
    min(rating) AS worst_rating            -- fewest stars, 1 to 5
FROM reviews
GROUP BY customer_id
