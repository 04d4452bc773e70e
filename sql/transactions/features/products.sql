-- @description  Breadth of what was bought, where the lines name it.
-- @owner        growth
-- @windows      lifetime
SELECT
    customer_id,
    count(DISTINCT description) AS distinct_items  -- different products bought
FROM lines
WHERE amount > 0
GROUP BY customer_id
