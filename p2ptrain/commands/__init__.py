"""What people do beside a running peer. Each module is one command, or what several commands share: `children` (other
p2ptrain processes), `listing` (how a list is printed), `provenance` (where exported weights come from), `visiting` and
`orders` (how an owner's command reaches the peers of a run).
A command may import `peer` and all rooms below it. It does not import `doctor`, `bootstrap` or `cli`.
"""
