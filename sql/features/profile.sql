-- @description  What is known since the customer signed up.
-- @owner        growth
SELECT
    customer_id,
    (date_part('epoch', $as_of) - date_part('epoch', signed_up_at)) / 86400.0 AS tenure_days,  -- days since the sign-up
    country,                                                                                   -- country of the first address
    channel,                                                                                   -- how the customer came to the shop
    newsletter                                                                                 -- whether the newsletter goes out to the customer
FROM customers
