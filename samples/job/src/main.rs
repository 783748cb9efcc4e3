//! A command: counts primes below its argument (1,000 without one) and exits; `fail` makes it exit non-zero.

fn main() {
    let arg = std::env::args().nth(1);
    if arg.as_deref() == Some("fail") {
        eprintln!("job: asked to fail");
        std::process::exit(1);
    }
    let Ok(limit) = arg.as_deref().unwrap_or("1000").parse::<u64>() else {
        eprintln!("job: the argument must be a number or `fail`");
        std::process::exit(1);
    };
    let primes = (2..limit).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count();
    println!("{primes} primes below {limit}");
}
