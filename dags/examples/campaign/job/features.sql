-- What is known of each customer when the week is over. Training reads the same SELECT.
SELECT
    customer_id,
    date_diff('day', min(bought_at), $end) AS tenure_days,
    count(*) AS purchases,
    avg(amount) AS mean_amount,
    date_diff('day', max(bought_at), $end) AS days_since_last
FROM purchases
WHERE bought_at < $end
GROUP BY customer_id
