"""What tools/versus is made of.

works     what is asked for and what is compared: rows, their figures, which way is better
servers   who is asked: how each server is configured, started and stopped
client    tools/loadgen, in the foreground and beside another one
scenes    the rows that are more than one closed loop: cold readers, crowds, clients that stop, one fast among many slow
uploads   the rows that store: what has arrived is compared and removed again, and what a hash alone costs
fan_out   the rows in which one writes and many read: server-sent events and live media
memory    what a server and the kernel hold for its connections
disk      large files that are not in the page cache, and how fast the disk gives them
machine   where it was measured
figures   medians, ratios, merging of results: no process and no file
report    tables, the section of the document, the plot
"""
