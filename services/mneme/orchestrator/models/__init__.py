"""Language models behind one port.

`port` says what a model is asked and answers, `table` what is known of each model, `build` chooses the provider.
"""
