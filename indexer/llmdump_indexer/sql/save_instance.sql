INSERT INTO ledger_instance (instance, hello_us, about, bye_us, bye_last) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (instance) DO UPDATE SET
    hello_us = coalesce(excluded.hello_us, hello_us), about = coalesce(excluded.about, about),
    bye_us = coalesce(excluded.bye_us, bye_us), bye_last = coalesce(excluded.bye_last, bye_last)
