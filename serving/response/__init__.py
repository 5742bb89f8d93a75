"""What is done about an account: a site's policy, its advice, and the ledger of what was enforced.

Nothing here touches a customer on a score: what is enforced rests on a rule with a reviewer's name
and on a decision that a reviewer confirmed, and can be undone.
"""
