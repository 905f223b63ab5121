"""`prefeval doctor`: what goes wrong on users' machines, models, data and servers, looked for before it costs a run."""
