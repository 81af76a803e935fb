"""The agent: the node's control side. It talks to the network and never touches the model."""
