"""What people do beside a running peer: invite, revoke, look, export, verify, replay, measure. Each module is one
command, or what several share; a command may use `peer` and all rooms below it, and no command uses `doctor`,
`bootstrap` or `cli`.
"""
