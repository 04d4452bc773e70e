-- @description  What is known since the customer signed up.
-- @owner        bench
SELECT
    customer_id,
    (date_part('epoch', $as_of) - date_part('epoch', signed_up_at)) / 86400.0 AS tenure_days  -- days since the sign-up
FROM customers
