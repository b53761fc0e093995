// Declares style sheets as modules: the build collects them into admin.css.
declare module '*.css';
