-- How many values of a suppression list are the same as a value of the rows but for spaces around them.
-- Grain: one row.
-- Views: listed, looked_up
SELECT count(*) AS found
FROM listed AS l
SEMI JOIN looked_up AS r ON r.__value::VARCHAR = trim(l.__value::VARCHAR)
WHERE trim(l.__value::VARCHAR) <> l.__value::VARCHAR
