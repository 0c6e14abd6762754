-- The texts of a day with what is known of their authors.
SELECT
    texts.doc,
    texts.language,
    texts.length,
    texts.links,
    authors.age
FROM texts INNER JOIN authors ON texts.author = authors.author
