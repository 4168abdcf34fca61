"""From where on a figure is worth saying: every threshold of every rule, and why it is there."""

WORTH_SAYING = 10.0  # percent of the time with work: a smaller loss is no news
UNEVEN = 1.2  # times the compute of its peers: kernels of one shape vary less
LEAD = 2.0  # times the lateness of the next: members that come last in turns are unsteady, none of them is a straggler
TRANSFER = 25.0  # percent in transfer: every fourth device does nothing but move bytes
HOST = 15.0  # percent without work for the device: more than a scheduler that plans ahead leaves
BALANCE = 0.8  # mean over max of the members' tokens: the fullest has a quarter more to do than the mean
TOKENS_TO_JUDGE = 200  # of a layer, per member: of fewer, chance alone makes loads so uneven
KV_FULL = 0.95  # of the blocks: the rest is less than a prompt wants
MBU = 70.0  # percent of the peak for weights and KV alone: activations, collectives and gaps want the rest
DRAM_ACTIVE = 80.0  # percent of cycles: copies alone reach some 90, so this is the roof
SILENT_S = 2.0  # without a step amid work: twice as long as telemetry's slowest report
STEPPING_S = 1.0  # who made a step so lately is not silent
HARMLESS = ("idle", "application", "display", "sync")  # reasons for a low clock that are nobody's fault
