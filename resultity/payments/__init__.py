"""Payments: from a provider's webhook to a grant, by one port (`resultity.payments.port`)."""
