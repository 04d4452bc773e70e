-- @description  What a customer wrote last: the model reads it.
-- @owner        service
SELECT
    customer_id,
    string_agg(text, ' ' ORDER BY reviewed_at DESC, review_id DESC) AS recent_reviews  -- the last three reviews, newest first
FROM (
    SELECT
        customer_id,
        review_id,
        reviewed_at,
        text,
        row_number() OVER (PARTITION BY customer_id ORDER BY reviewed_at DESC, review_id DESC) AS newest
    FROM reviews
) AS ranked
WHERE newest <= 3
GROUP BY customer_id
