"""Owns subclouds at a gateway: who is a member, who qualifies, who may call, where a job goes."""
