-- What makes each transaction of the day unusual for its account. Training reads the same SELECT.
SELECT
    t.transaction_id,
    t.account,
    t.amount,
    ln(t.amount / a.usual_amount) AS above_usual,
    (t.country <> a.country)::INTEGER AS abroad,
    (date_part('hour', t.at) < 6)::INTEGER AS at_night,
    count(*) OVER (
        PARTITION BY t.account ORDER BY t.at RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW
    ) AS in_last_hour
FROM transactions AS t
LEFT JOIN accounts AS a ON a.account = t.account
