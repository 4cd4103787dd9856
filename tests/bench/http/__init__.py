"""Predictions over HTTP: how fast they are beside peers, and what happens under more load than can be borne."""
