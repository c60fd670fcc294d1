"""Which trials go on: one pure machine per rule. Ray's scheduler, the plan and the simulator all play it.

A rule (`rule.Rule`) takes events in and answers with decisions. It holds no clock, no randomness and no handle to
anything that runs, and its state is nothing but the fold of the events that it took. So a sweep that goes on after a
kill replays its log, and stands where it stood::

    rule = Promote(points=(3, 9, 27), reduction_factor=3)         # or Stop, Median, Fifo
    rule.take(Started("a", is_protected=True))                    # a trial was given a slot for the first time
    decision = rule.take(Reported("a", resource=3, value=1.25))    # GO_ON; STOP: it is over; PARK: its slot is free
    rule.take(Ended("b"))                                         # it failed, or someone ended it
    work = rule.next(is_exhausted=False)                          # a slot is free: what now?
    if isinstance(work, Resume):
        rule.take(Started(work.trial))                            # it goes on to the next of the points
    elif work is Idle.NEW:
        ...                                                       # begin a new trial; when there is none, ask again
                                                                  # with is_exhausted=True
    # Idle.WAIT: nothing until a trial reports or ends; Idle.OVER: nothing any more, parked trials have ended

`resource` is what trials are given more of, as a whole number: optimizer steps or examples.
"""
