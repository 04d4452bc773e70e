-- @description  Ratios that compare a customer with an earlier self.
-- @owner        growth
SELECT
    customer_id,
    orders_30d / nullif(CAST(orders_90d AS DOUBLE), 0)                             AS order_trend_90d,    -- share of the last 90 days' orders that fell in the last 30
    orders_90d / nullif(CAST(orders_365d AS DOUBLE), 0)                            AS order_trend_365d,   -- share of the last year's orders that fell in the last 90 days
    days_since_last_order / nullif(order_gap_days, 0)                              AS overdue,            -- days since the last order, in usual gaps
    orders_lifetime / (tenure_days + 7.0)                                          AS order_rate,         -- orders per day since the sign-up
    spend_lifetime / (tenure_days + 7.0)                                           AS spend_rate,         -- money per day since the sign-up
    refunds_lifetime / nullif(CAST(orders_lifetime + refunds_lifetime AS DOUBLE), 0) AS refund_share,     -- share of all orders that were paid back
    discount_lifetime / nullif(spend_lifetime + discount_lifetime, 0)              AS discount_share,     -- share of the list price that discounts took off
    carts_30d / nullif(CAST(views_30d AS DOUBLE), 0)                               AS cart_share_30d      -- carts per product page in the last 30 days
FROM features
