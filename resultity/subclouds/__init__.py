"""What an owner of a subcloud does with files and a gateway: policies, members, tokens."""
