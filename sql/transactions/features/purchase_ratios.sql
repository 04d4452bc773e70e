-- @description  Ratios that compare a customer with an earlier self.
-- @owner        growth
SELECT
    customer_id,
    days_since_last_purchase / nullif(gap_mean_days, 0)                      AS overdue,              -- days since the last purchase, in usual gaps
    days_since_last_purchase / greatest(days_since_first_purchase, 0.001)    AS recency_share,        -- part of the time as a customer since the last purchase
    purchases_lifetime / (days_since_first_purchase + 7.0)                   AS purchase_rate,        -- purchases per day as a customer
    spend_lifetime / (days_since_first_purchase + 7.0)                       AS spend_rate,           -- money per day as a customer
    (2.0 * purchases_90d - purchases_180d) / (purchases_180d + 1.0)          AS purchase_trend_90d,   -- purchases of the last 90 days against the 90 before
    returned_lifetime / nullif(spend_lifetime + returned_lifetime, 0)        AS return_share          -- share of the money that was given back
FROM features
