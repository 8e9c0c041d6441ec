import sys
from bench.speech.measure import measure_all
for r in measure_all(int(sys.argv[1])) if __name__ == "__main__" else ():
    print(f"{r.style:30} {r.noise_db!s:5} codes {r.codes_percent:6.1f}  digits {r.digits_percent:6.2f}  s {r.seconds:5.2f}",flush=True)
